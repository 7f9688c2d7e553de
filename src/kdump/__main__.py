"""`python -m kdump` is the same as the command `kdump`."""

from kdump.cli.main import entry

if __name__ == "__main__":
    entry()
