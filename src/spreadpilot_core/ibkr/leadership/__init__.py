"""Which of several managers acts: how a lease is taken, kept and lost, whoever keeps it.

lease.py              the leader lease, on any document that is changed under a condition
among_engines.py      one lease decides among the managers of an engine, another among engines that share records
"""
