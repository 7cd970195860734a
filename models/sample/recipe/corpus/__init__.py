"""The text that the sample model learns from: a little public prose, and what the generators here write.

Every generator takes the random number generator that it draws from, so that one seed gives one corpus, byte for byte.
The order of the draws is therefore part of what a generator does.
"""
