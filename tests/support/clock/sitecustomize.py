"""On PYTHONPATH of a command and so of all its children: their wall clocks are off by SECONDS_OFF_CLOCK, and go on from there."""

from __future__ import annotations

import os
import time

import time_machine

time_machine.travel(time.time() + float(os.environ["SECONDS_OFF_CLOCK"]), tick=True).start()
