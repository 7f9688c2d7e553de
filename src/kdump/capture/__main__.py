"""`python -I -m kdump.capture`: the first process of the capture kernel."""

from kdump.capture.init import main

if __name__ == "__main__":
    main()
