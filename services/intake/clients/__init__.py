"""Clients: who may call, with which keys, scopes, regions and limit; told to every service, kept here."""
