"""Writes every packet of the loopback interface to a file, as length (4 bytes) and bytes, until SIGTERM.

    python sniffer.py FILE

Prints one JSON line when it listens, and one with its counters at the end. Needs CAP_NET_RAW and CAP_NET_ADMIN.
"""

import json
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 512 << 20
MAX_PACKET_BYTES = 1 << 19
SILENCE_S = 0.3


def main() -> None:
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw, Path(sys.argv[1]).open("wb") as file:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        raw.bind(("lo", ETH_P_ALL))
        raw.settimeout(SILENCE_S)
        tell(ready=True)
        buffer = bytearray(MAX_PACKET_BYTES)
        kept = 0
        while True:
            try:
                size, address = raw.recvfrom_into(buffer)
            except TimeoutError:
                if asked.is_set():
                    break
                continue
            if address[2] == PACKET_OUTGOING:  # a packet on loopback is seen going out and coming in
                file.write(struct.pack("<I", size))
                file.write(memoryview(buffer)[:size])
                kept += 1
        _, dropped = struct.unpack("II", raw.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    tell(kept=kept, dropped=dropped)


def tell(**words: int) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
