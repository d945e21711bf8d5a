"""The last step of a child before its program: `child_exec.py PARENT SIGNAL IDENTITY PROGRAM ...`, run by file name.
It asks the kernel to send SIGNAL when the parent ends in any way, and sets the identity of the program: `same`;
`userns`, an ordinary user of a new user namespace, which is root outside of it, so that root owns the files; or,
without user namespaces, `nobody` with the single capability to access root's folders. It is a separate program, not a
`preexec_fn`, because code between fork and exec of a process with threads can deadlock."""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def nobody() -> tuple[int, int]:
    """User and group id of an ordinary user in the user database, which initdb requires."""
    users = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    user = next((entry for entry in users if entry.pw_name == "nobody"), users[0])
    return user.pw_uid, user.pw_gid


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _enter_user_namespace() -> None:
    user, group = nobody()
    outer_user, outer_group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {outer_group} 1", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {outer_user} 1", encoding="ascii")


def _become_nobody() -> None:
    user, group = nobody()
    _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << CAP_DAC_OVERRIDE
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _call("capset", header, effective_permitted_inheritable)
    _call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def main() -> None:
    parent, signal, identity, *program = sys.argv[1:]
    try:
        if identity == "userns":
            _enter_user_namespace()
        elif identity == "nobody":
            _become_nobody()
        # After the change of identity, which clears this setting.
        _call("prctl", PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(0)
        os.execvp(program[0], program)  # noqa: S606 - without a shell between parent and program
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
