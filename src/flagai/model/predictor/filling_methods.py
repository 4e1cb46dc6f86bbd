"""The Predictor's methods that fill blanks."""

from typing import Any, Unpack, overload

import torch

from flagai.generation.keywords import AdapterChoice, SamplingOptions
from flagai.model.predictor import blanks
from flagai.model.predictor import encoder_heads as reading
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.arguments import as_list
from flagai.model.predictor.chat_methods import ChatMethods
from flagai.model.predictor.generation_methods import OneOrMany
from flagai.model.predictor.results import Filled


class FillingMethods(ChatMethods):
    """Adds blanks to the methods that generate text."""

    @overload
    def fill_blanks(
        self,
        texts: str,
        num_return_sequences: int = ...,
        out_max_length: int = ...,
        beam_size: int = ...,
        **options: Unpack[SamplingOptions],
    ) -> list[Filled]: ...
    @overload
    def fill_blanks(
        self,
        texts: list[str],
        num_return_sequences: int = ...,
        out_max_length: int = ...,
        beam_size: int = ...,
        **options: Unpack[SamplingOptions],
    ) -> list[list[Filled]]: ...
    @takes_adapter
    def fill_blanks(
        self, texts: Any, num_return_sequences: int = 1, out_max_length: int = 64, beam_size: int = 4, **options: Any
    ) -> Any:
        """Fill the blanks of texts, the best fillings first.

        Args:
            texts: a text or a list of texts with [MASK] (and for GLM [sMASK] and [gMASK]), any number of them.
            num_return_sequences: how many fillings of each text.
            out_max_length: how many tokens a filling may have (BERT: always one).
            beam_size: the number of beams; at least ``num_return_sequences``.
            **options: as in :meth:`write`.

        Returns:
            The fillings of each text.

        Raises:
            InputError: this model fills no blanks, a text has none, or an option is impossible.
        """
        family, asked = self._blank_options(num_return_sequences, out_max_length, beam_size, options)
        count = asked.decoding["num_return_sequences"]
        found = blanks.fill_masks(self.generator, family, as_list(texts), asked, count)
        return found[0] if isinstance(texts, str) else found

    @takes_adapter
    def predict_masklm(self, text: OneOrMany, maxlen: int | None = 512, **choice: Unpack[AdapterChoice]) -> OneOrMany:
        """The most probable token at every position, special ones included; :meth:`fill_blanks` is what one wants.

        Args:
            text: a text with [MASK], or a list of texts.
            maxlen: how many tokens are read.
            **choice: ``adapter``, as in :meth:`write`.
        """
        self._require("predict_masklm")
        found = reading.rows(self.model, self.tokenizer, as_list(text), maxlen)
        nothing = torch.tensor(self.tokenizer.rows_without_token(self.model.config.vocab_size), dtype=torch.long)
        decoded: Any = [self.tokenizer.decode(ids) for ids in reading.best_tokens(self.model, found, nothing)]
        answer: OneOrMany = decoded[0] if isinstance(text, str) else decoded
        return answer
