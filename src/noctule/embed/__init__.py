"""Floor 5: a cluster from within a program: a node in this process, and three managers over the client.

Read cluster_node.py, then partition_manager.py, replication_manager.py and migration_engine.py, each on its own.
"""
