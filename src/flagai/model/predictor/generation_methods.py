"""The Predictor's methods that generate text, with FlagAI's names and defaults."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, Unpack, overload

from flagai.checks import check_integer
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import Family, ModelClass
from flagai.generation.keywords import GenerationOptions, SamplingOptions, SharedOptions
from flagai.model.base_model import BaseModel
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.arguments import as_list, check_parts
from flagai.model.predictor.capabilities import require
from flagai.model.predictor.options import Options
from flagai.model.predictor.results import Written, WrittenText
from flagai.model.predictor.text_generation import TextGenerator

OneOrMany = TypeVar("OneOrMany", str, list[str])


class GenerationMethods:
    """A model, its tokenizer, and the Predictor's methods that generate text; its arguments are the Predictor's."""

    def __init__(
        self, model: BaseModel, tokenizer: Tokenizer | None = None, *, allow_untrained: bool = False,
        memory: int | None = None,
    ) -> None:  # fmt: skip
        check_parts(type(self).__name__, model, tokenizer)
        self.model = model.eval()
        self.tokenizer: Tokenizer = tokenizer  # type: ignore[assignment]  # checked above
        self.allow_untrained = allow_untrained
        self.memory = None if memory is None else check_integer("memory", memory)

    @property
    def generator(self) -> TextGenerator:
        """What generates text with the model."""
        return TextGenerator(self.model, self.tokenizer, self.memory)

    def _require(self, method: str) -> tuple[Family, ModelClass]:
        return require(self.model, method, allow_untrained=self.allow_untrained)

    @overload
    def write(
        self, text: str, input_max_length: int | None = ..., out_max_length: int = ...,
        **options: Unpack[SamplingOptions],
    ) -> WrittenText: ...  # fmt: skip
    @overload
    def write(
        self, text: list[str], input_max_length: int | None = ..., out_max_length: int = ...,
        **options: Unpack[SamplingOptions],
    ) -> list[WrittenText]: ...  # fmt: skip
    @overload
    def write(
        self,
        text: str,
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SamplingOptions],
    ) -> list[Written]: ...
    @overload
    def write(
        self,
        text: list[str],
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SamplingOptions],
    ) -> list[list[Written]]: ...
    @takes_adapter
    def write(self, text: Any, input_max_length: int | None = 256, out_max_length: int = 100, **options: Any) -> Any:
        """Generate text; the other methods are this one with FlagAI's names and defaults.

        Args:
            text: a text or a list of texts: an article for a title, "title：form" for a poem, a text with [MASK],
                [sMASK] or [gMASK] for a plain GLM, the beginning of a text for GPT-2.
            input_max_length: how many tokens of a text are read.
            out_max_length: how many tokens an answer may have; for blanks, each of them.
            **options: see :class:`flagai.generation.keywords.GenerationOptions`. The default is greedy search;
                ``num_beams=4`` is beam search; ``do_sample=True`` with ``top_k``, ``top_p``, ``temperature`` and
                ``seed`` samples (each text of a list starts from the same seed, as if it were alone).

        Returns:
            The text, a ``str`` with its score; for one with blanks the prompt, followed by what was generated for each.
            With ``num_return_sequences`` a list of :class:`~flagai.model.predictor.results.Written`. A list for a list.

        Raises:
            InputError: this model does not generate text, or an option is impossible.
        """
        self._require("write")
        asked = Options.read(out_max_length, options)
        answers = self.generator.write(as_list(text), asked, input_max_length)
        found: list[Any] = (
            answers if "num_return_sequences" in asked.decoding else [WrittenText.of(best[0]) for best in answers]
        )
        return found[0] if isinstance(text, str) else found

    @takes_adapter
    def write_each(
        self, texts: Iterable[str], input_max_length: int | None = 256, out_max_length: int = 100,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[list[Written]]:  # fmt: skip
        """Generate text for any number of texts, in their order and in bounded memory: a file of a million lines, say.

        Args:
            texts: taken as they are needed; the rest as in :meth:`write`.
            input_max_length: tokens of a text.
            out_max_length: tokens of an answer.
            **options: all but ``seeds``.

        Yields:
            For each text its answers, the best first.

        Raises:
            InputError: as in :meth:`write`, or ``seeds`` are given.
        """
        asked = Options.read(out_max_length, {**options})
        if asked.decoding.get("seeds") is not None:
            raise InputError("write_each takes texts one after the other: give seed, not seeds.")
        self._require("write")
        return self.generator.write_each(texts, asked, input_max_length)

    @takes_adapter
    def stream(
        self, text: str, input_max_length: int | None = 256, out_max_length: int = 200,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:  # fmt: skip
        """Generate text piece by piece, as soon as each is certain; joined, the pieces are the answer.

        Args:
            text: one text, as in :meth:`write`; a GLM's blanks come one after the other.
            input_max_length: how many tokens of the text are read.
            out_max_length: how many tokens the answer may have.
            **options: as in :meth:`write`.

        Raises:
            InputError: this model does not generate text, or an option is impossible.
        """
        self._require("write")
        asked = Options.read(out_max_length, options)
        return self.generator.stream(text, asked, input_max_length)

    @overload
    def predict_generate_beamsearch(
        self,
        text: OneOrMany,
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        beam_size: int = ...,
        **options: Unpack[SamplingOptions],
    ) -> OneOrMany: ...
    @overload
    def predict_generate_beamsearch(
        self,
        text: str,
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        beam_size: int = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SamplingOptions],
    ) -> list[Written]: ...
    @overload
    def predict_generate_beamsearch(
        self,
        text: list[str],
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        beam_size: int = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SamplingOptions],
    ) -> list[list[Written]]: ...
    def predict_generate_beamsearch(
        self,
        text: Any,
        input_max_length: int | None = 256,
        out_max_length: int = 100,
        beam_size: int = 1,
        **options: Any,
    ) -> Any:
        """Beam search.

        Args:
            text: as in :meth:`write`.
            input_max_length: how many tokens of a text are read.
            out_max_length: how many tokens an answer may have.
            beam_size: the number of beams; 1 is greedy search.
            **options: as in :meth:`write`.

        Returns:
            As :meth:`write`.
        """
        if "num_beams" in options and check_integer("beam_size", beam_size) not in (
            1,
            check_integer("num_beams", options["num_beams"]),
        ):
            raise InputError(f"beam_size is {beam_size}, and num_beams {options['num_beams']}. Give one of them.")
        return self.write(text, input_max_length, out_max_length, **{"num_beams": beam_size} | options)

    @overload
    def predict_generate_randomsample(
        self,
        text: OneOrMany,
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        top_k: int = ...,
        top_p: float = ...,
        repetition_penalty: float = ...,
        temperature: float = ...,
        prompts_tokens: None = ...,
        **options: Unpack[SharedOptions],
    ) -> OneOrMany: ...
    @overload
    def predict_generate_randomsample(
        self,
        text: str,
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        top_k: int = ...,
        top_p: float = ...,
        repetition_penalty: float = ...,
        temperature: float = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SharedOptions],
    ) -> list[Written]: ...
    @overload
    def predict_generate_randomsample(
        self,
        text: list[str],
        input_max_length: int | None = ...,
        out_max_length: int = ...,
        top_k: int = ...,
        top_p: float = ...,
        repetition_penalty: float = ...,
        temperature: float = ...,
        *,
        num_return_sequences: int,
        **options: Unpack[SharedOptions],
    ) -> list[list[Written]]: ...
    def predict_generate_randomsample(
        self,
        text: Any,
        input_max_length: int | None = 256,
        out_max_length: int = 200,
        top_k: int = 30,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        prompts_tokens: None = None,
        **options: Any,
    ) -> Any:
        """Sampling.

        Args:
            text: as in :meth:`write`.
            input_max_length: how many tokens of a text are read.
            out_max_length: how many tokens an answer may have.
            top_k: sample from so many of the most probable tokens; 0 for all.
            top_p: sample from the fewest tokens that together have this probability; 1 for all.
            repetition_penalty: above 1 makes tokens that have occurred less probable.
            temperature: divides the logits; above 1 gives more diverse text.
            prompts_tokens: not supported; must be None.
            **options: as in :meth:`write`.

        Returns:
            As :meth:`write`.
        """
        if prompts_tokens is not None:
            raise InputError("prompts_tokens is not supported; put the prompt into the text.")
        sampling = {"do_sample": True, "top_k": top_k, "top_p": top_p, "temperature": temperature}
        sampling["repetition_penalty"] = repetition_penalty
        return self.write(text, input_max_length, out_max_length, **sampling | options)

    def predict_generate_contrastive_search(
        self, text: OneOrMany, input_max_length: int | None = 256, out_max_length: int = 100, beam_size: int = 1,
        alpha: float = 0.6, **options: Unpack[SamplingOptions],
    ) -> OneOrMany:  # fmt: skip
        """Contrastive search: probable tokens that do not repeat what came before.

        Args:
            text: as in :meth:`write`.
            input_max_length: how many tokens of a text are read.
            out_max_length: how many tokens an answer may have.
            beam_size: the number of candidates of every step; 4 to 8 are usual, 1 is greedy search.
            alpha: 0 looks at the probability only, 1 at the novelty only.
            **options: as in :meth:`write`.

        Returns:
            As :meth:`write`.

        Source:
            Su et al. 2022, "A Contrastive Framework for Neural Text Generation".
        """
        contrast: dict[str, Any] = {"penalty_alpha": alpha, "top_k": beam_size, **options}
        return self.write(text, input_max_length, out_max_length, **contrast)
