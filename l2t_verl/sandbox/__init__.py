"""Programs that nobody trusts, run where they can do no harm: bubblewrap's namespaces, and limits that the kernel keeps."""

from l2t_verl.sandbox.isolation import SandboxError, require
from l2t_verl.sandbox.limits import Limits
from l2t_verl.sandbox.tests import Verdict, run_tests

__all__ = ["Limits", "SandboxError", "Verdict", "require", "run_tests"]
