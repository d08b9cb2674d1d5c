"""Can the network be trusted, and what to do next: `sections` of pages, and their `figures`, which take matplotlib."""

from distseg.review.trust.sections import believed, next_steps, trust_compared, trust_of_run

__all__ = ["believed", "next_steps", "trust_compared", "trust_of_run"]
