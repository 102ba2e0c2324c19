"""The server side: peers, name resolution, connecting."""
