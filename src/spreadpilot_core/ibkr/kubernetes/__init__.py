"""Everything that knows Kubernetes: gateways as pods of one namespace, followers as objects of one.

api.py           the API server: the one module that knows the SDK
connecting.py    which cluster, by whose credentials
naming.py        what pods and their like are called and marked with
manifests.py     what the API server is asked to make
pods.py          what a pod's state means
phases.py        what a pod waits for, and when its end is confirmed, in the scheduler's and the kubelet's words
following.py     one pod, followed until it is as it should be
images.py        what an image says of itself, by a probe
image_notes.py   what it said to a manager before
access_rules.py     who reaches gateways and who may end them
access_keeping.py   has that be there before a gateway is
policy_trial.py     whether anything enforces network policies: two pods try it
watching.py      what the API server tells of all things of a kind
pod_watch.py     all of our pods by one watch, for who follows one of them
shared_queries.py  queries of the cluster that launches share
things_of_followers.py  what each follower has beside its pod
settings_claims.py  where its gateway's settings are kept
streams.py       changes of our pods, and their logs
forwarding.py    ways to gateways from outside of the cluster
executing.py     commands inside of a pod
refusals.py      what a cluster that refuses something means by it
rights.py        what the manager's account must be allowed to do
settings.py      what the settings say of pods
runtime.py       `KubernetesRuntime`
lease_object.py  a leader lease as a Lease of the cluster
leader_label.py  the label on the pod of the manager that acts
follower_objects.py  followers as objects of the cluster, and their status
followers.py     who should have a gateway, by these
leader_lease.py  which of several managers acts
reader.py        a look from beside a running manager
"""
