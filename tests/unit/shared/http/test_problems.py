"""Types of problems in the OpenAPI document."""

from shared.http.problems import ProblemType, problems

BUSY = ProblemType("busy", 409, "Busy", "Another call is in progress.")
TAKEN = ProblemType("taken", 409, "Taken", "The name is taken.")


def test_the_problem_types_of_one_status_are_one_response_with_one_example_each() -> None:
    one, both = problems(BUSY)[409], problems(BUSY, TAKEN)[409]
    content = one["content"]["application/problem+json"]
    assert (one["description"], content["example"]["type"]) == ("Busy", "urn:piepowder:problem:busy")
    examples = both["content"]["application/problem+json"]["examples"]
    assert (both["description"], examples.keys()) == ("Busy; Taken", {"busy", "taken"})
    assert problems(BUSY)[409] == one
