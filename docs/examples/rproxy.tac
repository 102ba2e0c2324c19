"""rproxy as a Twisted application:  twistd -ny rproxy.tac

The config file is rproxy.toml in the current directory, or what RPROXY_CONFIG names.
"""

import os

from twisted.application.service import Application

import rproxy

application = Application("rproxy")
rproxy.makeService(os.environ.get("RPROXY_CONFIG", "rproxy.toml")).setServiceParent(application)
