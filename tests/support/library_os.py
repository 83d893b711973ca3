"""`python library_os.py NAME COMMAND...`: a command, and all that it starts, with a library operating system's calls.

A seccomp filter answers what Occlum or Gramine answers to the calls that they do not have. What they have is Linux's
here: nothing is shown of where they do the same call in another way, nor of enclaves, memory, files and speed.

Sources: occlum/occlum 690d5dbf, in `src/libos/src`: `syscall/mod.rs` (the table), `process/do_clone.rs`,
`process/prctl/mod.rs`; gramineproject/gramine ff71d7af, in `libos/src`: `arch/x86_64/libos_table.c`,
`sys/libos_sigaction.c` (`do_kill_pgroup`), `sys/libos_stat.c` (`__do_statfs`).
"""

import ctypes
import errno
import os
import struct
import sys
from dataclasses import dataclass, field

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_X86_64 = 0xC000_003E
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the argument's lower half
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45  # BPF_JMP|JEQ, JGT, JGE, JSET with a constant
_ALLOW, _ERRNO, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_STATFS, _CLONE, _CLONE3, _KILL_CALL, _PRCTL, _RESTART = 137, 56, 435, 62, 157, 219
_VM, _VFORK, _THREAD = 0x100, 0x4000, 0x1_0000
_PR_SET_NAME, _PR_GET_NAME, _PR_GET_TIMERSLACK = 15, 16, 30
_NEGATIVE, _MINUS_ONE = 0x8000_0000, 0xFFFF_FFFF

Instruction = tuple[int, int, int, int]
"""Code, how many to skip where the comparison is true, where it is false, and the constant."""


@dataclass(frozen=True, kw_only=True)
class LibraryOs:
    """Which calls one has.

    `calls` are numbers and ranges of numbers; of the others those below `unknown_from` are answered with ENOSYS, the
    rest with `unknown`. `rules` come before all that.
    """

    calls: str
    unknown_from: int = 1 << 30
    unknown: int = errno.ENOSYS
    rules: list[Instruction] = field(default_factory=list)


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _when_called(number: int, *then: Instruction) -> list[Instruction]:
    """What to do at one call; it has to end with a return."""
    return [(_EQUAL, 0, len(then), number), *then]


_LOAD_ARGUMENT = (_LOAD, 0, 0, _FIRST_ARGUMENT)
_PASS = (_RETURN, 0, 0, _ALLOW)
# Linux has no call that is posix_spawn: glibc has a child share its memory until that has become another program.
_THREADS_AND_SPAWN = [
    *_when_called(_CLONE3, _refuse(errno.ENOSYS)),  # a filter cannot see its flags; glibc then takes clone
    *_when_called(
        _CLONE,
        _LOAD_ARGUMENT,
        (_ANY_BIT, 2, 0, _THREAD),
        (_AND, 0, 0, _VM | _VFORK),
        (_EQUAL, 0, 1, _VM | _VFORK),
        _PASS,
        _refuse(errno.EINVAL),
    ),
    *_when_called(_RESTART, _PASS),  # Linux's own, after a signal
]
OCCLUM = LibraryOs(
    calls="0-26 28-33 35 39-56 58-63 67 72-97 99 102 104 107-111 115 121 127-128 130-132 137-138 140-141 158 160 162 "
    "165-166 186 200-204 213 217-218 228-235 257-258 260-271 273-274 280-281 283-288 290-293 295-296 302 307 309 318",
    unknown_from=335,
    unknown=errno.EINVAL,
    rules=[
        *_THREADS_AND_SPAWN,
        *_when_called(
            _PRCTL,
            _LOAD_ARGUMENT,
            (_EQUAL, 2, 0, _PR_SET_NAME),
            (_EQUAL, 1, 0, _PR_GET_NAME),
            (_EQUAL, 0, 1, _PR_GET_TIMERSLACK),
            _PASS,
            _refuse(errno.EINVAL),
        ),
    ],
)
GRAMINE = LibraryOs(
    calls="0-24 26-28 32-63 72-85 87 89-93 95-97 99 102 104-112 115-116 121 124 127-128 130-131 133 137-138 140-152 "
    "158 160-161 170-171 186 191-196 200-204 213 217-218 221 228-234 237 247 257-260 262-264 267-271 273-274 281 "
    "284-285 288 290-293 299 302 307 309 318 325 436",
    rules=[
        *_when_called(_CLONE3, _refuse(errno.ENOSYS)),
        *_when_called(_RESTART, _PASS),
        # To another process group than one's own, as to each but the caller's here.
        *_when_called(
            _KILL_CALL,
            _LOAD_ARGUMENT,
            (_EQUAL, 2, 0, _MINUS_ONE),
            (_ANY_BIT, 0, 1, _NEGATIVE),
            _refuse(errno.ENOSYS),
            _PASS,
        ),
        # Succeeds, and says nothing.
        *_when_called(_STATFS, _refuse(0)),
    ],
)
BY_NAME = {"occlum": OCCLUM, "gramine": GRAMINE}


def program(system: LibraryOs) -> list[Instruction]:
    """The filter, as instructions of classic BPF."""
    allowed: list[Instruction] = []
    for word in system.calls.split():
        first, _, last = word.partition("-")
        allowed += [(_AT_LEAST, 0, 2, int(first)), (_GREATER, 1, 0, int(last or first)), _PASS]
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *system.rules,
        *allowed,
        (_AT_LEAST, 0, 1, system.unknown_from),
        _refuse(system.unknown),
        _refuse(errno.ENOSYS),
    ]


def enter(system: LibraryOs) -> None:
    """Filter this process's calls, and those of all that it starts, until they end."""
    instructions = program(system)
    code = b"".join(struct.pack("=HBBI", code, true, false, constant) for code, true, false, constant in instructions)
    held = ctypes.create_string_buffer(code)
    filter_program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, first, second in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program),
    ):
        if libc.prctl(option, ctypes.c_ulong(first), second, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "seccomp")


def main(name: str, *command: str) -> None:
    """Become a command under the filter."""
    enter(BY_NAME[name])
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
