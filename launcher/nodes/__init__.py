"""Between the supervisors of a run: who has which ranks, and what follows a failure."""
