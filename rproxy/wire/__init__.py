"""Bytes to values and back: no Twisted, no clock, no sockets."""
