"""Who is in the cluster, and who of them seems alive. Read members.py."""
