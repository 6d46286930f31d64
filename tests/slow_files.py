"""A folder as a file system far away would show it: every request waits 5 ms before it is answered.

    /usr/bin/python3 tests/slow_files.py FOLDER MOUNT

Read only; for measuring, with Debian's python3-fusepy. Requests wait side by side, as on a shared file system, and
what the kernel keeps (names, pages already read) is not asked for again.
"""

import errno, os, sys, time

from fusepy import FUSE, FuseOSError, Operations

LATENCY = 0.005  # s


class Slow(Operations):
    "The files of a folder, later"

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, request, path, *args):
        if request not in ('init', 'destroy', 'release', 'releasedir', 'flush'):
            time.sleep(LATENCY)
        return super().__call__(request, self.folder + path, *args)

    def getattr(self, path, fh=None):
        try:
            s = os.lstat(path)
        except OSError as e:
            raise FuseOSError(e.errno)
        names = 'st_mode', 'st_size', 'st_nlink', 'st_uid', 'st_gid', 'st_mtime', 'st_ctime'
        return {k: getattr(s, k) for k in names}

    def readdir(self, path, fh):
        return ['.', '..', *os.listdir(path)]

    def open(self, path, flags):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise FuseOSError(errno.EROFS)
        return os.open(path, flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)


if __name__ == '__main__':
    folder, mount = sys.argv[1:]
    FUSE(Slow(os.path.abspath(folder)), mount, foreground=True, ro=True)
