"""Gateways' screens: signing in at their VNC servers, and the last picture of one that was given up.

rfb.py            a connection to a VNC server that has let us in
picture.py        what the screen shows, as a PNG
last_pictures.py  the newest pictures of each follower, on this host's disk
"""
