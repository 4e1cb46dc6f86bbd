"""The Predictor's methods for servers, whose requests come and go: what a scheduler takes, instead of answers."""

from collections.abc import Sequence
from typing import Any, Unpack

from flagai.checks import check_integer
from flagai.errors import InputError
from flagai.families.family import Family
from flagai.generation.keywords import GenerationOptions, SamplingOptions
from flagai.generation.options import MOST_LANES, RENAMED_TEXTS, with_new_names
from flagai.model.predictor import blanks
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.arguments import as_list
from flagai.model.predictor.blanks import BlankRequest
from flagai.model.predictor.generation_methods import GenerationMethods
from flagai.model.predictor.options import Options
from flagai.model.predictor.text_generation import TextRequest


class RequestMethods(GenerationMethods):
    """Adds requests to the methods that generate text."""

    @takes_adapter
    def requests(
        self,
        texts: Sequence[str],
        input_max_length: int | None = 256,
        out_max_length: int = 100,
        **options: Unpack[GenerationOptions],
    ) -> list[TextRequest]:
        """What a :class:`~flagai.generation.Scheduler` takes for texts that :meth:`write` would answer.

        Args:
            texts: a list of texts; the rest as in :meth:`write`.
            input_max_length: tokens of a text.
            out_max_length: tokens of an answer.
            **options: as in :meth:`write`.

        Returns:
            One for each text: ``request`` goes to ``submit``; ``certain`` and ``answers()`` are its text so far and its
            answers.

        Raises:
            InputError: as in :meth:`write`.
        """
        self._require("write")
        asked = Options.read(out_max_length, {**options})
        return self.generator.requests(as_list(texts), asked, input_max_length)

    @takes_adapter
    def blank_requests(
        self,
        texts: Sequence[str],
        num_return_sequences: int = 1,
        out_max_length: int = 64,
        beam_size: int = 4,
        **options: Unpack[SamplingOptions],
    ) -> list[BlankRequest]:
        """What a scheduler takes for texts that :meth:`fill_blanks` would fill; see :meth:`requests`.

        Args:
            texts: a list of texts; the rest as in :meth:`fill_blanks`.
            num_return_sequences: fillings of a text.
            out_max_length: tokens of a filling.
            beam_size: the number of beams.
            **options: as in :meth:`fill_blanks`.

        Returns:
            One for each text; ``filled()`` are its fillings.

        Raises:
            InputError: as in :meth:`fill_blanks`, or a BERT fills its blanks without a scheduler.
        """
        family, asked = self._blank_options(num_return_sequences, out_max_length, beam_size, {**options})
        if family.blanks == "tokens":
            raise InputError("A BERT fills blanks in one call, without a scheduler: fill_blanks(texts).")
        return blanks.blank_requests(self.generator, family, as_list(texts), asked)

    def _blank_options(
        self, num_return_sequences: int, out_max_length: int, beam_size: int, options: dict[str, Any]
    ) -> tuple[Family, Options]:
        """The family of a model that fills blanks, and how: the arguments of ``fill_blanks``, read."""
        family, _ = self._require("fill_blanks")
        if RENAMED_TEXTS.keys() & options:
            counted = {} if num_return_sequences == 1 else {"num_return_sequences": num_return_sequences}
            options = with_new_names(options | counted, RENAMED_TEXTS)
            num_return_sequences = options.pop("num_return_sequences", num_return_sequences)
        wanted = {"beam_size": beam_size, "num_return_sequences": num_return_sequences}
        width = max(check_integer(name, value, high=MOST_LANES) for name, value in wanted.items())
        if "num_beams" in options and check_integer("beam_size", beam_size) not in (
            4,
            check_integer("num_beams", options["num_beams"]),
        ):
            raise InputError(f"beam_size is {beam_size}, and num_beams {options['num_beams']}. Give one of them.")
        strategy = {} if options.get("do_sample") is True else {"num_beams": width}
        return family, Options.read(out_max_length, options, num_return_sequences=num_return_sequences, **strategy)
