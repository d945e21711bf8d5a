"""`python -m deploy.local.jars`: bring and check Kafka's jars, or write their list anew."""

import argparse
import sys

from deploy.local.errors import StackError
from deploy.local.jars import bring_jars, user_cache, write_list


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.jars", description="Bring and check Kafka's jars.")
    parser.add_argument("--write", action="store_true", help="resolve anew and write the list of names and SHA-256")
    try:
        if parser.parse_args().write:
            write_list()
        print(f"{len(bring_jars())} jars in {user_cache() / 'kafka'}")
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
