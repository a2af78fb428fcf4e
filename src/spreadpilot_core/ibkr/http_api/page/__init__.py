"""The page at `http_address`: server-rendered, whole without script; with script it shows what happens as it happens.

routes      which page is asked for, and what is done by its forms
fleet       which gateways are shown, in which order          gateway     what is shown of one
needs_you   who waits for a human, and what the button costs  bars        availability as a picture
rendering   the templates                                     assets      style and scripts, ours and those of npm packages
screen      a gateway's screen over a WebSocket               rfb         what is said on it
"""
