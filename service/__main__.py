"""`python -m service` is `winnow`."""

from service.cli import main

main()
