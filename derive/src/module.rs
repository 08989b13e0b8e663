//! `#[derive(Module)]`: walks the fields of a struct, or of an enum's variant.

use proc_macro2::{TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Field, Fields, LitStr, Result, parse_quote};

/// What `#[module(…)]` on a field says.
#[derive(Default)]
struct Options {
    skip: bool,
    flatten: bool,
    name: Option<String>,
}

fn options(field: &Field) -> Result<Options> {
    let mut o = Options::default();
    for attr in field.attrs.iter().filter(|a| a.path().is_ident("module")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                o.skip = true;
            } else if meta.path.is_ident("flatten") {
                o.flatten = true;
            } else if meta.path.is_ident("name") {
                o.name = Some(meta.value()?.parse::<LitStr>()?.value());
            } else {
                return Err(meta.error("expected `skip`, `flatten` or `name = \"…\"`"));
            }
            Ok(())
        })?;
    }
    Ok(o)
}

/// Whether an identifier occurs in a type.
fn mentions(tokens: TokenStream, ident: &syn::Ident) -> bool {
    tokens.into_iter().any(|t| match t {
        TokenTree::Ident(i) => i == *ident,
        TokenTree::Group(g) => mentions(g.stream(), ident),
        _ => false,
    })
}

/// The statements that walk some fields, bound to the names `field0`, `field1`, …; and the types that were walked.
fn statements(fields: &Fields, transparent: bool) -> Result<(Vec<TokenStream>, Vec<syn::Type>)> {
    let (mut code, mut types) = (Vec::new(), Vec::new());
    for (i, field) in fields.iter().enumerate() {
        let options = options(field)?;
        if options.skip {
            continue;
        }
        let bound = format_ident!("field{i}");
        let call = quote!((&&&Field(#bound)).walk_field(walk));
        code.push(if options.flatten || (transparent && options.name.is_none()) {
            quote!(#call;)
        } else {
            let name = options.name.unwrap_or_else(|| field.ident.as_ref().map_or(i.to_string(), |n| n.unraw().to_string()));
            quote!(walk.field(#name, |walk| #call);)
        });
        types.push(field.ty.clone());
    }
    Ok((code, types))
}

/// A pattern that binds each walked field of a struct or variant.
fn pattern(fields: &Fields) -> Result<TokenStream> {
    let mut parts = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        if options(field)?.skip {
            continue;
        }
        let bound = format_ident!("field{i}");
        parts.push(match &field.ident {
            Some(name) => quote!(#name: #bound),
            None => {
                let index = syn::Index::from(i);
                quote!(#index: #bound)
            }
        });
    }
    Ok(quote!({ #(#parts,)* .. }))
}

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let mut input: DeriveInput = syn::parse2(item)?;
    let name = &input.ident;
    let kind = name.unraw().to_string();
    let mut walked = Vec::new();
    let body = match &input.data {
        Data::Struct(data) => {
            let (code, types) = statements(&data.fields, false)?;
            let pattern = pattern(&data.fields)?;
            walked.extend(types);
            quote! {
                walk.module(#kind);
                let Self #pattern = self;
                #(#code)*
            }
        }
        Data::Enum(data) => {
            let mut arms = Vec::new();
            for variant in &data.variants {
                // A variant around one value stands for that value, as `Option` does.
                let transparent = matches!(&variant.fields, Fields::Unnamed(f) if f.unnamed.len() == 1);
                let (code, types) = statements(&variant.fields, transparent)?;
                let pattern = pattern(&variant.fields)?;
                let variant = &variant.ident;
                arms.push(quote!(Self::#variant #pattern => { #(#code)* }));
                walked.extend(types);
            }
            quote!(match self { #(#arms)* })
        }
        Data::Union(_) => return Err(syn::Error::new_spanned(name, "a union cannot be a module")),
    };
    let params: Vec<_> = input.generics.type_params().map(|p| p.ident.clone()).collect();
    for param in params {
        if walked.iter().any(|t| mentions(quote!(#t), &param)) {
            input.generics.make_where_clause().predicates.push(parse_quote!(#param: ::fornax::nn::Module));
        }
    }
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::fornax::nn::Module for #name #ty_generics #where_clause {
            fn walk(&self, walk: &mut ::fornax::nn::Walk<'_>) {
                #[allow(unused_imports)]
                use ::fornax::nn::field::{AsModule as _, AsPlain as _, AsPod as _, Field};
                #body
            }
        }
    })
}
