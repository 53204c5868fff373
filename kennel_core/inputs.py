"""What a service is told in secret: the values of its resources, secrets and logins. Pure."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kennel_core import derived
from kennel_core.secrets import Resolved

DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a service is told, as it was when it was asked for.

    `plain` are variables that anybody on the host may see; `variables` and `secrets` are kept out of logs.
    `missing` are servers that did not answer and that the service can start without.
    """

    plain: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Resolved = field(default_factory=lambda: Resolved({}, {}, {}), repr=False)
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def environment(self, directory: str) -> dict[str, str]:
        """Return the secret variables, for files that the service finds in `directory`."""
        return {**self.variables, **self.secrets.environment(directory)}

    def with_secrets(self, secrets: Resolved) -> "Inputs":
        """Add a project's own secrets; where one has the name of what Kennel gives, it takes its place."""
        own = secrets.variables.keys() | secrets.files.keys() | secrets.beside_files.keys()
        shadowed = sorted(own & (self.plain.keys() | self.variables.keys()))
        lines = [f"the secret {name} takes the place of what Kennel would give" for name in shadowed]
        return replace(
            self,
            plain={name: value for name, value in self.plain.items() if name not in own},
            variables={name: value for name, value in self.variables.items() if name not in own},
            secrets=secrets,
            warnings=(*self.warnings, *lines),
        )

    def noted(self, key_file: Path) -> dict[str, Any]:
        """Return what the column `inputs` keeps: a keyed digest of the values, and no value.

        Raises:
            ConfigError: the key file cannot be read.
        """
        files = {name: base64.b64encode(content).decode() for name, content in self.secrets.files.items()}
        told = [dict(self.plain), self.environment("."), files]
        digest = derived.password(key_file, "inputs", json.dumps(told, sort_keys=True))[:DIGEST_LENGTH]
        return {
            "digest": digest if any(told) else "",
            "versions": dict(self.secrets.versions),
            **({"missing": list(self.missing)} if self.missing else {}),
        }
