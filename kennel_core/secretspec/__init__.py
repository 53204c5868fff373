"""secretspec.toml 1.0: what a project declares, and what follows from what is stored. Pure.

The semantics are those of secretspec with one provider for everything; the tests compare the two. Kennel goes
another way in this: `extends` is refused, since only the file itself is there; `generate` and `prompt` make
nothing, so that a secret without a stored value is missing; a file composed of other files' paths is refused,
since there are no paths yet.

Source: https://secretspec.dev/reference/configuration/
"""

from kennel_core.secretspec.resolve import DIRECTORY, Resolution, Source, resolve
from kennel_core.secretspec.secret import Ref, Secret
from kennel_core.secretspec.spec import PHASE, Spec, parse

__all__ = ["DIRECTORY", "PHASE", "Ref", "Resolution", "Secret", "Source", "Spec", "parse", "resolve"]
