"""The ids of the marks, which are where DeepSeek's tokenizers have them: the special ones first, the others last."""

from corpus.markup import ASSISTANT, BEGIN, DSML, END, END_THINK, PAD, THINK, USER

VOCABULARY_SIZE = 2048

# Special: left out when text is decoded.
SPECIAL_MARKS = [BEGIN, END, PAD]
# Added but not special: parsers find them in the text.
ADDED_MARKS = [THINK, END_THINK, USER, ASSISTANT, DSML]

BEGIN_ID, END_ID, PAD_ID = range(len(SPECIAL_MARKS))
FIRST_ADDED_ID = VOCABULARY_SIZE - len(ADDED_MARKS)
THINK_ID, END_THINK_ID, USER_ID, ASSISTANT_ID, DSML_ID = range(FIRST_ADDED_ID, VOCABULARY_SIZE)
# Below are the special marks and the single bytes.
FIRST_WORD_ID = 260
