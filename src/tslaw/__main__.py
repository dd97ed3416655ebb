"""`python -m tslaw` is `tslaw`."""

from tslaw.cli.app import main

if __name__ == "__main__":
    main()
