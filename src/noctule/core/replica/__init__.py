"""Raft and keyspace of one group behind one door, and the loop that carries its effects out."""
