"""Floor 5: a cluster from within a program: a node in this process, and managers over the client.

Read cluster_node.py, then partition_manager.py, replication_manager.py, migration_engine.py, service_discovery.py and
health_checker.py, each on its own.
"""
