"""Networks of other projects, adapted to the contract of this project's models."""
