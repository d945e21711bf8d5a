"""A recorded corpus of REST requests and the responses to them, as a regression test of the HTTP interface.

`cases` generates the requests from the committed OpenAPI documents of version 1 and a seed. `calls` sends them, and
`recording` reduces the responses to what must not change: status, problem type, error pointers and headers. The texts
of problems are not recorded, so they may be improved. `tests/e2e/test_rest_corpus.py` runs the corpus against the real
services; `python -m tests.contract.rest_corpus --record` records it again.

The recording is of commit 22a6f91, the last one before the REST interface was declared in FastAPI's idiom: this package
and `tests/e2e/test_rest_corpus.py` were copied into a checkout of that commit. The intended differences since then are
in `accepted.json`.
"""
