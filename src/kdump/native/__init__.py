"""The compiled loops of libkdump.so, and how they are called."""
