"""Tells people, on the channels that they chose, what needs them: a few messages, each once, and when it is over.

    event bus, notices --> troubles.py   what is wrong now, and since when
                           planner.py    what is told now: grouped, reminded of, resolved   (both pure: no clock, no I/O)
                           wording.py    a message's words
                           audience.py   which channels hear of whom
                           outbox.py     what waits for a channel, and what was given up
    notifier.py            runs all of it while this manager is the leader, and keeps it in the store that managers share
    sending.py             one try on one channel, in a thread of its own
    channels.py            the only module that knows apprise

A channel that is away delays nothing: neither gateways nor other channels.
"""
