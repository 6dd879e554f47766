"""One module a benchmark, each with `run(rounds) -> rows`; see `big_audio.tools.bench`."""
