"""`python -m deploy.local.jars`: download and check Kafka's jars, or write their list."""

import argparse
import sys

from deploy.local.jars import fetch_jars, user_cache, write_list
from shared.runtime.user_errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.jars", description="Download and check Kafka's jars.")
    parser.add_argument("--write", action="store_true", help="resolve again and write the list of names and SHA-256")
    try:
        if parser.parse_args().write:
            write_list()
        print(f"{len(fetch_jars())} jars in {user_cache() / 'kafka'}")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
