"""`python -m trimtab`: the command without its script."""

from trimtab.cli.app import main

if __name__ == "__main__":
    main()
