"""The command `sgs`, also `python -m sgs`."""

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from sgs.cli import app

        app(prog_name="sgs")
    except ModuleNotFoundError as error:
        missing = (error.name or "sgs").partition(".")[0]
        if missing == "sgs":
            raise
        print(
            f'sgs: the command line needs {missing}, which is not installed: pip install "sgsnet[demo]"',
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
