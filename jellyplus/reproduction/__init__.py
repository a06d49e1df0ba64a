"""Claims, evidence and views: a paper's table beside what our runs measured."""
