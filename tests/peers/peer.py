"""A peer of fdbroker in Python, of its standard library alone: socket.send_fds and socket.recv_fds.

Its end of the socket is its standard input. It answers each message until the other end is gone, says so, and ends.

    peer.py packets           the kernel keeps messages apart: SEQPACKET or DGRAM
    peer.py lengths           a stream; before each message its length, u32, little-endian, which both programs agree on
    peer.py frames STEP       the frames of fdbroker's Kind::Stream, read and written at most STEP bytes at a time
    peer.py parts             the parts of fdbroker's send_many and recv_many, over SEQPACKET

An answer has the bytes of the message in reverse, then a line for each of its descriptors (device, inode, what the file
says), and the same descriptors in reverse, behind which comes the reading end of a pipe of this process's own.
"""

import os
import signal
import socket
import struct
import sys

MOST = 253
LONGEST = 1 << 21


class HungUp(Exception):
    pass


def main():
    signal.alarm(60)  # Whatever happens: nobody waits for this process for ever.
    end = socket.socket(fileno=0)
    mode, step = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else LONGEST
    peer = {"packets": Packets, "lengths": Lengths, "frames": Frames, "parts": Parts}[mode](end, step)
    try:
        while True:
            data, fds = peer.receive()
            if data == b"end":  # A datagram socket is not told of a hang-up.
                raise HungUp("asked to end")
            data, fds, own = answer(data, fds)
            peer.send(data, fds + own)
            for fd in fds + own:
                os.close(fd)
    except HungUp as said:
        print(said)
    except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
        print("hung up:", type(error).__name__)


def answer(data, fds):
    data = data[::-1]
    for fd in fds:
        status = os.fstat(fd)
        data += b"%d:%d:%s\n" % (status.st_dev, status.st_ino, os.pread(fd, 100, 0))
    own = []
    if 0 < len(fds) < MOST:
        reading, writing = os.pipe()
        os.write(writing, b"made by the peer")
        os.close(writing)
        own = [reading]
    return data, fds[::-1], own


class Packets:
    def __init__(self, end, _step):
        self.end = end

    def receive(self):
        data, fds, flags, _ = socket.recv_fds(self.end, LONGEST, MOST)
        if not data and not fds:
            raise HungUp("hung up")
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        return data, fds

    def send(self, data, fds):
        socket.send_fds(self.end, [data], fds)


class Stream:
    """Reads and writes so many bytes and no more. Descriptors come, and go, with the first of them."""

    def __init__(self, end, step):
        self.end, self.step = end, step

    def read(self, length):
        data, fds = b"", []
        while len(data) < length:
            more, fds_here, flags, _ = socket.recv_fds(self.end, min(self.step, length - len(data)), MOST)
            if not more:
                raise HungUp("hung up" if not data else "hung up in the middle")
            assert not flags & socket.MSG_CTRUNC
            assert not data or not fds_here, "descriptors that are not on the first byte"
            data, fds = data + more, fds + fds_here
        return data, fds

    def write(self, data, fds):
        sent = socket.send_fds(self.end, [data[: self.step]], fds)
        while sent < len(data):
            sent += self.end.send(data[sent : sent + self.step])


class Lengths(Stream):
    def receive(self):
        header, fds = self.read(4)
        data, later = self.read(struct.unpack("<I", header)[0])
        assert not later
        return data, fds

    def send(self, data, fds):
        self.write(struct.pack("<I", len(data)) + data, fds)


class Frames(Stream):
    def receive(self):
        header, fds = self.read(8)
        length, count = struct.unpack("<II", header)
        data, later = self.read(length)
        assert not later and len(fds) == count, "%d descriptors, and %d were said" % (len(fds), count)
        return data, fds

    def send(self, data, fds):
        self.write(struct.pack("<II", len(data), len(fds)) + data, fds)


class Parts(Packets):
    """Any number of descriptors, in messages of 253 at most."""

    whole = 7

    def receive(self):
        data, fds = super().receive()
        total, before, whole = struct.unpack("<III", data[:12])
        assert before == 0 and len(fds) == min(total, MOST)
        while len(fds) < total:
            more, fds_here = super().receive()
            assert more == struct.pack("<III", total, len(fds), whole), "the part that is due, and no bytes"
            fds += fds_here
        return data[12:], fds

    def send(self, data, fds):
        self.whole += 1
        for before in range(0, max(len(fds), 1), MOST):
            header = struct.pack("<III", len(fds), before, self.whole)
            super().send(header + (data if before == 0 else b""), fds[before : before + MOST])


main()
