"""A model of ours behind OpenAI's protocol, so that other toolkits can measure it.

http.py speaks HTTP, service.py answers requests, protocol.py translates them, batching.py owns the model.
"""
