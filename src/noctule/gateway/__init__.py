"""Floor 4: gateways: one HTTP door in front of many instances, embedded or by HAProxy and nginx.

May import base, core, adapters, node and client.

What is to be done: model.py (the config; model_file.py reads it, model_check.py checks it), orders.py, instances.py.
Who says so: control.py, admin.py, metrics.py, registry_source.py; process.py runs all of it, workers.py and worker.py
spread it over processes, engines/ hands it to HAProxy or nginx.
Which instance: traffic.py, pool.py, health.py, and core/balance below them; pictures.py is what is counted.
One request's way: gateway.py, downstream.py (or tls.py, h2.py), plane.py, exchange.py (client_side.py, body.py), then
attempt.py for each instance that is tried (heads.py, upstream.py), delivery.py or tunnel.py for what is passed on, and
failures.py where none is; answers.py holds what the gateway says itself.
"""
