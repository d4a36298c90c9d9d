"""The command line: ``sfumato <verb>``. Each verb is one process; settings come from the environment."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from sfumato.agents.access.key_commands import key
from sfumato.agents.acl_commands import SHARES, acls, share
from sfumato.agents.dossier_commands import dossier
