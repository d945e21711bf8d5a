"""Distribution of the tests over the worker processes of a run (pytest-xdist)."""

from typing import Final

from xdist.scheduler import LoadScopeScheduling

# These tests share one Kafka, and therefore one control topic: only one of them may run at a time.
_ONE_SYSTEM: Final = "tests/e2e/"
_OWN_KAFKA: Final = frozenset(
    {
        "tests/e2e/test_documented_commands.py",
        "tests/e2e/test_intake_cut_off.py",
        "tests/e2e/test_local_system.py",
        "tests/e2e/test_restore.py",
    }
)


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each worker whole modules, whose tests share fixtures, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return _ONE_SYSTEM if module.startswith(_ONE_SYSTEM) and module not in _OWN_KAFKA else module

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False
        super().schedule()
