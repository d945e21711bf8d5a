"""The router: a pure function from (item, region, policy set, operating model) to a case with a full trace."""
