"""The client side: what happens on an accepted connection before it is handed on."""
