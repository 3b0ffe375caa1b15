"""Files scored and models measured without a server: `winnow score` and `winnow evaluate`."""
