"""What a supervisor can begin, one file per kind of action, and what runs it.

action.py    what all have in common: `GatewayAction`, `ActionContext`, `ActionResult`
registry.py  finds them by their kind: a new action is a file here, named as its `ActionKind`
runner.py    at most one in flight per gateway: cancels, aborts, supersedes, traces
"""
