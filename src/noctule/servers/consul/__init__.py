"""Consul's HTTP API, as of Consul 1.8, in front of the registry of this cluster.

Read routes.py for what there is, api.py for how a request goes through it, requests.py for what is understood of one,
and then the file of a resource. Sentences, statuses and shapes are Consul's; one suite of integration tests asks the
same of a real one.
"""
