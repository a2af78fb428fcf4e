"""Which cluster, and by whose credentials: the service account of a pod, or a kubeconfig's context.

A password goes to its pod through the API server, so that one which can't prove who it is is not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spreadpilot_core.ibkr.settings import Settings

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account."""
_DEFAULT_FILE: Final = "~/.kube/config"


@dataclass(frozen=True, slots=True)
class Access:
    """How the API server is reached; nothing is read yet."""

    kubeconfig: str | None
    """None: as the service account of this pod."""
    context: str | None = None
    namespace: str | None = None
    """None: the context's, or this pod's own."""

    @property
    def is_inside(self) -> bool:
        """Whether this process is a pod of the cluster, so that it reaches pods by their addresses."""
        return self.kubeconfig is None

    def __str__(self) -> str:
        if self.kubeconfig is None:
            return "this pod's service account"
        return f"{self.kubeconfig}{f', context {self.context}' if self.context else ''}"


def access_from(settings: Settings, environment: Mapping[str, str] = os.environ, *, url: str | None = None) -> Access:
    """What the settings say: a kubeconfig that is named wins, then the service account of a pod, then `~/.kube/config`.

    `url` names the namespace; None: `runtime_url` does.
    """
    named = settings.kubeconfig
    is_pod = "KUBERNETES_SERVICE_HOST" in environment and (ACCOUNT / "token").exists()
    return Access(
        kubeconfig=named or (None if is_pod else str(Path(_DEFAULT_FILE).expanduser())),
        context=settings.kubernetes_context,
        namespace=(settings.runtime_url if url is None else url).partition(":")[2] or None,
    )
