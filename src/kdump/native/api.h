/* What libkdump.so shows to Python; it is compiled with all else hidden. Declared for ctypes in library.py. */
#ifndef KDUMP_API_H
#define KDUMP_API_H

#define API __attribute__((visibility("default")))

#endif
