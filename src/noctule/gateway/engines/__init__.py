"""Floor 4: HAProxy and nginx as engines of the gateway, from the same model as the embedded one.

May import the gateway's model, core and base; knows nothing of nodes or the command line. Read engine.py (what every
engine can be asked), order.py and checks.py (what both renderers share), haproxy.py and nginx.py (model to text), then
process.py, haproxy_socket.py, haproxy_driver.py and nginx_driver.py (text to a running process).
"""
